"""The delegation: a namespace whose only mount answers from its own memory and tells the coordinator later."""
