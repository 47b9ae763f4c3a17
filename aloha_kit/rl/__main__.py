"""`python -m aloha_kit.rl train|eval|render|export`."""

from aloha_kit.command import command

main = command("rl")

if __name__ == "__main__":
    main()
