"""Why a rollout may have failed: its log, its episode and what training saw, read together."""
