package api

// LeftOut lists what an archive lacks of its volume: sockets, which tar cannot store.
type LeftOut struct {
	Count int
	First []string // paths in the volume: as many as Add keeps
}

// Add counts a file that was left out, and keeps the paths of the first three.
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
