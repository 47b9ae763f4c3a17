"""`python -m aloha_kit.convert FROM TO --format NAME`: the episodes of a data set in another format."""

from aloha_kit.command import command

main = command("convert")

if __name__ == "__main__":
    main()
