package plugin

import (
	"encoding/json"
	"io"

	"github.com/droverhq/drover/dataset"
)

// volumeList is the answer of List. It contains only names and mountpoints, because the engine calls Get for the rest.
type volumeList []Volume

// bareNames returns each volume once, by its name without a profile or source. Podman refuses names
// with "@", and "podman volume reload" fails for a list that has one. A bare name means the same
// volume in every call.
func bareNames(all []Volume) []Volume {
	out := make([]Volume, 0, len(all))
	seen := make(map[string]bool, len(all))
	for _, v := range all {
		if seen[v.Name] || dataset.CheckName(v.Name) != nil { // Podman could not use a bad name either
			continue
		}
		seen[v.Name] = true
		v.Spelling = v.Name
		out = append(out, v)
	}
	return out
}

// chunk is the size of one write.
const chunk = 32 << 10

// write encodes the list piece by piece, so that its memory does not grow with the number of volumes.
func (l volumeList) write(w io.Writer) error {
	buf := make([]byte, 0, chunk+1<<10)
	buf = append(buf, `{"Volumes":[`...)
	for i, v := range l {
		if i > 0 {
			buf = append(buf, ',')
		}
		buf = appendString(append(buf, `{"Name":`...), v.Spelling)
		if v.Mountpoint != "" {
			buf = appendString(append(buf, `,"Mountpoint":`...), v.Mountpoint)
		}
		buf = append(buf, '}')
		if len(buf) >= chunk {
			if _, err := w.Write(buf); err != nil {
				return err
			}
			buf = buf[:0]
		}
	}
	_, err := w.Write(append(buf, "]}\n"...))
	return err
}

// appendString appends s as JSON.
func appendString(buf []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			text, _ := json.Marshal(s) // json.Marshal of a string cannot fail
			return append(buf, text...)
		}
	}
	buf = append(buf, '"')
	buf = append(buf, s...)
	return append(buf, '"')
}
