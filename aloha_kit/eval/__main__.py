"""`python -m aloha_kit.eval --ckpt RUN --task sim_transfer_cube --num_rollouts 200`."""

from aloha_kit.command import command

main = command("eval")

if __name__ == "__main__":
    main()
