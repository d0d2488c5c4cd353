package inuse

import (
	"bufio"
	"bytes"
	"os"
	"slices"

	"github.com/droverhq/drover/internal/mount"
)

// writableLater finds the shared mappings that a task may make writable (mprotect(2)): those of a file that
// was opened for writing. Only smaps tells them from the others (VmFlags, proc_pid_smaps(5)). The kernel
// walks the page tables of the task for it, so this function is called only if a task has a read-only shared
// mapping of a wanted tree. If smaps cannot be read, all these mappings count.
func (x *Examination) writableLater(at string, readOnly []File, f *Findings) error {
	file, err := os.Open(at + "/smaps")
	if err != nil {
		f.Files = append(f.Files, readOnly...)
		return unlessEnded(err)
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, mount.MaxTable) // a path may be longer than PATH_MAX
	var mapping []byte
	for n := 1; lines.Scan(); n++ {
		if n%chunk == 0 {
			if err := x.endChunk(chunk / mappingsPerWork); err != nil {
				return err
			}
		}
		flags, ok := bytes.CutPrefix(lines.Bytes(), []byte("VmFlags:"))
		switch {
		case !ok && isMapping(lines.Bytes()):
			mapping = bytes.Clone(lines.Bytes())
		case ok && slices.ContainsFunc(bytes.Fields(flags), func(flag []byte) bool { return string(flag) == "mw" }):
			if o, _, shared := x.mapping(mapping, f.Views); shared {
				f.Files = append(f.Files, o)
			}
		}
	}
	return lines.Err()
}

// isMapping reports whether a line of smaps is the first one of a mapping: the others begin with a name.
func isMapping(line []byte) bool {
	first, _, _ := bytes.Cut(line, []byte(" "))
	return bytes.Contains(first, []byte("-")) && !bytes.HasSuffix(first, []byte(":"))
}

// mayInclude reports whether a file may be in one of the wanted trees.
func (s *Scan) mayInclude(f File) bool {
	return slices.ContainsFunc(s.trees, func(h *Holding) bool { return h.Includes(f) })
}
