"""`python -m aloha_kit.train --task sim_transfer_cube --policy act`."""

from aloha_kit.command import command

main = command("train")

if __name__ == "__main__":
    main()
