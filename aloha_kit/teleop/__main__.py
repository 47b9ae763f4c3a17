"""`python -m aloha_kit.teleop --task aloha_transfer_cube`, and `--park` to park the followers."""

from aloha_kit.command import command

main = command("teleop")

if __name__ == "__main__":
    main()
