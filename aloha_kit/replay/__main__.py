"""`python -m aloha_kit.replay EPISODE_OR_FOLDER`."""

from aloha_kit.command import command

main = command("replay")

if __name__ == "__main__":
    main()
