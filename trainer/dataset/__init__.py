"""From files of dialogue to tokens and masks, without torch: read, sample, split, render, tokenise, store."""
