"""What runs elsewhere: checkpoints and commands for engines that we write for and do not serve with."""
