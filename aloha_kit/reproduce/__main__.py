"""`python -m aloha_kit.reproduce transfer_cube --preset cpu --seeds 0 1 2`."""

from aloha_kit.command import command

main = command("reproduce")

if __name__ == "__main__":
    main()
