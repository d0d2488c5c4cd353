package wire

// Minimal is the value of the header Prefer (RFC 7240) with which a client asks for the summaries of a list. Lists
// without summaries have the whole items.
const Minimal = "return=minimal"

// MinimalHealth asks for summaries with the fields that an assessment of the health of volumes needs.
const MinimalHealth = "return=minimal, health"
