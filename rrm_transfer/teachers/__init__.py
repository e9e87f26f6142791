"""Any robust checkpoint as a frozen teacher."""
