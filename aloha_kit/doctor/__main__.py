"""`python -m aloha_kit.doctor --task aloha_transfer_cube`."""

from aloha_kit.command import command

main = command("doctor")

if __name__ == "__main__":
    main()
