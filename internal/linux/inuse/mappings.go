package inuse

import (
	"bufio"
	"bytes"
	"errors"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/droverhq/drover/internal/linux/mount"
)

// mappings finds the shared mappings of files to which a task can write (proc_pid_maps(5)). The task can write to such
// a file even after it has closed the file. To write, it needs no system call except perhaps mprotect(2). exists is
// false if the task has no memory map.
func (x *Examination) mappings(at string, f *Findings) (exists bool, err error) {
	file, err := os.Open(at + "/maps")
	if err != nil {
		return false, err
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, mount.MaxTable) // a path may be longer than PATH_MAX
	var readOnly []File
	for n := 1; lines.Scan(); n++ {
		exists = true
		if n%chunk == 0 {
			if err := x.endChunk(chunk / mappingsPerWork); err != nil {
				return exists, err
			}
		}
		switch o, writable, ok := x.mapping(lines.Bytes(), f.Views); {
		case ok && (writable || o.readOnly):
			f.Files = append(f.Files, o)
		case ok && slices.ContainsFunc(x.Scan.trees, func(h *TreeUse) bool { return h.Includes(o) }):
			readOnly = append(readOnly, o)
			if x.Scan.readers {
				o.readOnly = true
				f.Files = append(f.Files, o)
			}
		}
	}
	if err = lines.Err(); err == nil && len(readOnly) > 0 {
		err = x.writableLater(at, readOnly, f)
	}
	return exists, err
}

// mapping parses one line of a maps file. ok is false if the line is not a shared mapping of a file on a wanted
// filesystem. If the scan looks for readers, a private mapping counts as one for reading. mapping assumes that the file
// was opened through the innermost mount that contains its path.
func (x *Examination) mapping(line []byte, views []*View) (f File, writable, ok bool) {
	word := bytes.Fields(line)
	if len(word) < 6 || len(word[1]) != 4 || word[1][3] != 's' && !x.Scan.readers {
		return File{}, false, false
	}
	major, minor, ok := deviceOfMapping(string(word[3]))
	if !ok || !x.Scan.isWanted(major, minor) {
		return File{}, false, false
	}
	path := string(bytes.Join(word[5:], []byte(" ")))
	best := File{major: major, minor: minor, path: "/", unplaced: true}
	longest := -1
	consider := func(table mount.Mounts, in *View) {
		for _, e := range table.Of(major, minor) {
			if within(path, e.Mountpoint) && len(e.Mountpoint) >= longest {
				longest, best = len(e.Mountpoint), place(seenMount{e, in}, path)
			}
		}
	}
	if len(views) == 0 {
		consider(x.Scan.own, nil)
	}
	for _, v := range views {
		consider(v.Mounts, v)
	}
	if word[1][3] != 's' {
		best.readOnly = true
		return best, false, true
	}
	return best, word[1][1] == 'w', true
}

func deviceOfMapping(s string) (major, minor int, ok bool) {
	a, b, _ := strings.Cut(s, ":")
	x, err1 := strconv.ParseUint(a, 16, 32)
	y, err2 := strconv.ParseUint(b, 16, 32)
	return int(x), int(y), errors.Join(err1, err2) == nil
}

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
