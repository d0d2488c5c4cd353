// Package witness has the notes of writers: programs that write to volumes while hosts, networks and control fail, and
// that note each write outside of the volume. Check compares the notes with the contents of the volumes at the end.
// Package writer writes the notes. Packages test/cluster and test/chaos read and check them. The package has no state.
package witness

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Token is what one write stores in a volume. Each write has a different token.
type Token struct {
	Writer string `json:"writer"` // one process; no space in it
	Epoch  uint64 `json:"epoch"`  // under which its file was opened
	Seq    int    `json:"seq"`    // of its writes, from 1
}

// String returns the line in the volume, without its end.
func (t Token) String() string { return fmt.Sprintf("%s %d %d", t.Writer, t.Epoch, t.Seq) }

// Entry is the note of a writer about one token.
type Entry struct {
	Token
	Dataset string `json:"dataset"`
	Node    string `json:"node"`
	// Begin and End are nanoseconds of CLOCK_BOOTTIME, which all machines of a test share, before the write and
	// after the fsync.
	Begin int64  `json:"begin"`
	End   int64  `json:"end"`
	Err   string `json:"err,omitempty"` // error of the write or of the fsync; the volume may have the token or lack it
}

// Now returns the present time for entries.
func Now() (int64, error) {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0, fmt.Errorf("read CLOCK_BOOTTIME: %w", err)
	}
	return ts.Nano(), nil
}

// Logs reads the logs that match a pattern (filepath.Match). It ignores an incomplete last line, which a writer
// leaves if it is killed.
func Logs(pattern string) ([]Entry, error) {
	files, err := filepath.Glob(pattern)
	if err != nil {
		return nil, err
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("no log is %s", pattern)
	}
	var all []Entry
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		b = b[:bytes.LastIndexByte(b, '\n')+1]
		for line := range bytes.Lines(b) {
			var e Entry
			if err := json.Unmarshal(line, &e); err != nil {
				return nil, fmt.Errorf("%s: %w in %q", file, err, line)
			}
			all = append(all, e)
		}
	}
	return all, nil
}

// Copy is the contents of one copy of a dataset: of its head, or of a superseded head.
type Copy struct {
	Dataset  string
	Name     string // for messages: "head on host-a"
	Tokens   map[Token]bool
	BadLines []string // lines that are not tokens
}

// Read reads the file of a copy.
func Read(dataset, name string, r io.Reader) (Copy, error) {
	c := Copy{Dataset: dataset, Name: name, Tokens: map[Token]bool{}}
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		line := lines.Text()
		if line == "" {
			continue // an empty line comes before the first write after a failed one
		}
		var t Token
		if _, err := fmt.Sscanf(line, "%s %d %d", &t.Writer, &t.Epoch, &t.Seq); err != nil || t.String() != line {
			c.BadLines = append(c.BadLines, line)
			continue
		}
		c.Tokens[t] = true
	}
	return c, lines.Err()
}

// ReadFile reads the file of a copy by its path. A missing file counts as empty.
func ReadFile(dataset, name, file string) (Copy, error) {
	b, err := os.ReadFile(file)
	if err != nil && !os.IsNotExist(err) {
		return Copy{}, err
	}
	return Read(dataset, name, strings.NewReader(string(b)))
}
