"""`python -m aloha_kit.deploy --ckpt RUN --task sim_transfer_cube --temporal_agg`, or `… deploy serve --ckpt RUN`."""

from aloha_kit.command import command

main = command("deploy")

if __name__ == "__main__":
    main()
