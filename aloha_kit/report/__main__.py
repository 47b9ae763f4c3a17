"""`python -m aloha_kit.report FOLDER`: one page about a recorded, trained and deployed policy."""

from aloha_kit.command import command

main = command("report")

if __name__ == "__main__":
    main()
