package cli

// Palette colours words on a terminal and does nothing elsewhere. The zero
// value does nothing.
type Palette struct{ on bool }

// NewPalette returns a palette that colours words if the output is a terminal with colours. It does not colour if
// NO_COLOR is not empty (no-color.org), or if TERM is unset or dumb.
func NewPalette(terminal bool, getenv func(string) string) Palette {
	term := getenv("TERM")
	return Palette{on: terminal && getenv("NO_COLOR") == "" && term != "" && term != "dumb"}
}

// Red marks errors.
func (p Palette) Red(s string) string { return p.sgr("31", s) }

// Yellow marks warnings.
func (p Palette) Yellow(s string) string { return p.sgr("33", s) }

// Green marks good states.
func (p Palette) Green(s string) string { return p.sgr("32", s) }

func (p Palette) sgr(code, s string) string {
	if !p.on {
		return s
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}
