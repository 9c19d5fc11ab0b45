"""What `push` checks and sends: cards, licences, privacy, results."""
