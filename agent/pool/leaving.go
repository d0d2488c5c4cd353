package pool

// leaving is what becomes of a pool.
type leaving string

// What becomes of a pool: see Record.Leaving.
const (
	Staying   leaving = ""
	Removed   leaving = "removed"   // what Drover made at its place goes
	Forgotten leaving = "forgotten" // its place stays as it is
)
