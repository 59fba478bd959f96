"""What holds for every workflow and every order of facts."""
