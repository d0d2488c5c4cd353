package api

// LeftOut is what an archive lacks of its volume: sockets, which tar has not.
type LeftOut struct {
	Count int
	First []string // paths in the volume: as many as Add keeps
}

// Add counts one. Of the first few it keeps the path.
func (l *LeftOut) Add(path string) {
	const kept, longest = 3, 200
	if l.Count++; len(l.First) >= kept {
		return
	}
	if len(path) > longest {
		path = path[:longest] + "…"
	}
	l.First = append(l.First, path)
}
