"""`python -m aloha_kit.policies info RUN`, `… export RUN FOLDER`: describe and export checkpoints."""

from aloha_kit.command import command

main = command("policies")

if __name__ == "__main__":
    main()
