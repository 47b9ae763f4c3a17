"""`python -m aloha_kit.diagnose EPISODE_OR_FOLDER`: why a rollout may have failed."""

from aloha_kit.command import command

main = command("diagnose")

if __name__ == "__main__":
    main()
