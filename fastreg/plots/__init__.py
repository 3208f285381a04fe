"""Pictures: registrations, training curves, box plots of Dice."""
