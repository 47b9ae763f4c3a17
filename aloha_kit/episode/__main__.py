"""`python -m aloha_kit.episode validate|recover|info|stats|export|adopt|label`: manage recorded episodes."""

from aloha_kit.command import command

main = command("episode")

if __name__ == "__main__":
    main()
