"""What a mount acknowledged and has not stored, kept on its disk so that the next mount finishes it after a crash."""
