"""`python -m aloha_kit.sweep GRID.yaml`."""

from aloha_kit.command import command

main = command("sweep")

if __name__ == "__main__":
    main()
