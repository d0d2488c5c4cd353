package api

// OmittedFiles lists the files of a volume that an archive does not contain: sockets, which tar cannot store.
type OmittedFiles struct {
	Count int
	First []string // the first three paths, relative to the volume, each truncated to 200 bytes
}

// Add counts a file that was left out, and keeps the paths of the first three.
func (l *OmittedFiles) Add(path string) {
	const kept, longest = 3, 200
	if l.Count++; len(l.First) >= kept {
		return
	}
	if len(path) > longest {
		path = path[:longest] + "…"
	}
	l.First = append(l.First, path)
}
