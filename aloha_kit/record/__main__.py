"""`python -m aloha_kit.record --task sim_transfer_cube --num_episodes 50`."""

from aloha_kit.command import command

main = command("record")

if __name__ == "__main__":
    main()
