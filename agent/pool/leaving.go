package pool

// leaving says what becomes of a pool that is being removed.
type leaving string

// What becomes of a pool: see Record.Leaving.
const (
	Staying   leaving = ""
	Removed   leaving = "removed"   // what Drover made at its path is removed
	Forgotten leaving = "forgotten" // its path stays as it is
)
