"""Recording of demonstrations: the scripted recorder (simulation) and the human recorder (a rig and its operator)."""
