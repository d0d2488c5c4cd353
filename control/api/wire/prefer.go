package wire

// Minimal is the value of the header Prefer (RFC 7240) with which a client asks for the summaries of a list. A server
// that does not know summaries answers with the whole items.
const Minimal = "return=minimal"

// MinimalHealth asks for summaries with the fields that an assessment of the health of volumes needs.
const MinimalHealth = "return=minimal, health"
