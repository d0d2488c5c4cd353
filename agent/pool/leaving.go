package pool

// leaving is what becomes of a pool.
type leaving string

const (
	Staying   leaving = ""
	Removed   leaving = "removed"   // what Drover made at its place goes
	Forgotten leaving = "forgotten" // its place stays as it is
)
