"""What people read: tables and the model card."""
