"""`python -m aloha_kit.data ls`, `… fetch NAME`: list and download published data sets."""

from aloha_kit.command import command

main = command("data")

if __name__ == "__main__":
    main()
