"""From a stage's directory to what may stand on the Hub: licences, cards, figures, and what must stay here."""
