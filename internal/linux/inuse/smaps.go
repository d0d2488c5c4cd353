package inuse

import (
	"bufio"
	"bytes"
	"os"
	"slices"

	"github.com/droverhq/drover/internal/linux/mount"
)

// writableLater adds the shared mappings that a task can make writable with mprotect(2) to f: the
// mappings of files that were opened for writing. Only the flag mw in smaps distinguishes them from other
// read-only mappings (VmFlags, proc_pid_smaps(5)).
//
// To produce smaps, the kernel walks the page tables of the task. So writableLater is called only for a
// task with a read-only shared mapping of a wanted tree. If smaps cannot be opened, all of readOnly
// counts.
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

// isMapping reports whether a line of smaps is the first one of a mapping. The other lines begin with a
// name and a colon.
func isMapping(line []byte) bool {
	first, _, _ := bytes.Cut(line, []byte(" "))
	return bytes.Contains(first, []byte("-")) && !bytes.HasSuffix(first, []byte(":"))
}
