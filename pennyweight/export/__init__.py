"""Export: checkpoints and commands for engines that pennyweight does not serve with."""
