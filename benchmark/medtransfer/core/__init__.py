"""The ground that every package stands on: errors, documents, files, text. No torch, no pandas."""
