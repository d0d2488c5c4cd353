package mount

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// MaxTable is the maximum size in bytes of the mountinfo file of another process. It is large enough for 100,000
// mounts, the default of /proc/sys/fs/mount-max, at the usual 150 bytes a line.
//
// maxOwnTable is that of the host's own file. A user who is not root can make 1,000 FUSE mounts in it (fusermount3(1)),
// with lines of up to 40 KiB: the mount point and the name of the filesystem can have 4,096 blanks each, which the
// kernel writes as four bytes.
const (
	MaxTable    = 16 << 20
	maxOwnTable = 256 << 20
)

// ErrTooLarge is returned for a mountinfo file that is larger than its maximum.
var ErrTooLarge = errors.New("the mount table is too large to read")

// parseTable reads a mountinfo file, proc_pid_mountinfo(5). A line may have any length, because
// the path of a mount point may be longer than PATH_MAX, and any user with a user namespace can
// make such a mount. moby/sys/mountinfo cannot be used here: it reads with bufio.Scanner, whose
// default limit of 64 KiB a line makes one long line fail the whole table.
//
// It fails with ErrTooLarge, with a read error, or with an error that quotes the line that could not
// be parsed. It never returns part of a table.
func parseTable(r io.Reader, limit int) (Mounts, error) {
	limited := &io.LimitedReader{R: r, N: int64(limit) + 1}
	lines := bufio.NewReader(limited)
	var table Mounts
	for {
		line, err := lines.ReadString('\n')
		if limited.N <= 0 {
			return nil, ErrTooLarge
		}
		ended := errors.Is(err, io.EOF)
		if err != nil && !ended { // the line is incomplete
			return nil, err
		}
		if line != "" {
			e, bad := parseEntry(strings.TrimSuffix(line, "\n"))
			if bad != nil {
				return nil, bad
			}
			table = append(table, e)
		}
		if ended {
			return table, nil
		}
	}
}

// parseEntry parses one line of a mountinfo file:
//
//	36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue
//
// None of the optional fields between the options and the dash is a single dash.
func parseEntry(line string) (*Entry, error) {
	const mandatory = 6 // fields before the optional ones
	bad := func(what string) error {
		return fmt.Errorf("mountinfo line %q: %s", clip(line), what)
	}
	f := strings.Split(line, " ")
	dash := mandatory
	for dash < len(f) && f[dash] != "-" {
		dash++
	}
	if dash+3 >= len(f) {
		return nil, bad("not enough fields")
	}
	major, minor, _ := strings.Cut(f[2], ":")
	var numbers [4]int
	for i, s := range []string{f[0], f[1], major, minor} {
		n, err := strconv.Atoi(s)
		if err != nil {
			return nil, bad("expected a number instead of " + strconv.Quote(clip(s)))
		}
		numbers[i] = n
	}
	return &Entry{
		ID: numbers[0], Parent: numbers[1], Major: numbers[2], Minor: numbers[3],
		Root:       unescape(f[3]),
		Mountpoint: unescape(f[4]),
		Options:    strings.Clone(f[5]),
		Optional:   strings.Join(f[mandatory:dash], " "),
		FSType:     unescape(f[dash+1]),
		Source:     unescape(f[dash+2]),
		VFSOptions: strings.Join(f[dash+3:], " "),
	}, nil
}

// unescape decodes octal escapes such as \040. The kernel writes them for space, tab, newline, backslash
// and hash (mangle_path in fs/seq_file.c). unescape returns a copy, so that a field does not keep its
// whole line in memory.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return strings.Clone(s)
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b = append(b, byte(n))
				i += 3
				continue
			}
		}
		b = append(b, s[i])
	}
	return string(b)
}

// clip shortens a string that an error quotes.
func clip(s string) string {
	const most = 100
	if len(s) <= most {
		return s
	}
	return s[:most] + "…"
}
