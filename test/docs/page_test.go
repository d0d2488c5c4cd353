package docs

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/droverhq/drover/test/require"
)

// A page is one Markdown file.
type page struct {
	name   string // below the root of the repository
	text   string
	blocks []block
}

// A block is what a reader would copy: a fenced block, also in a list item, or an indented one with commands in it.
type block struct {
	line     int    // of its first line, from 1
	language string // of a fence; console for indented commands
	lines    []string
	note     note
}

// A note is an HTML comment before a block: <!-- test: … -->. It gives the reason why the block is not run, or it has
// words that say how the block is run:
//
//	setup=NAME               the fixture to call before the block; without this word, none is called
//	prefix=DIGITS:VOLUME     the digits stand for the start of the volume's UUID
//	uuid=UUID:VOLUME         the UUID stands for that of the volume's dataset
//	snapshot=UUID:VOLUME/S   the UUID stands for that of the volume's snapshot S
//	file=PATH                the block is the file
//	compose=PATH             the block replaces its keys in the Compose file
//	compose                  the block is part of a Compose file
//	alerts                   the block is rules of Prometheus
type note struct {
	notRun string
	words  []noteWord
}

type noteWord struct{ key, value string }

// get returns the value of the first word with a key, and whether there is one.
func (n note) get(key string) (value string, ok bool) {
	for _, w := range n.words {
		if w.key == key {
			return w.value, true
		}
	}
	return "", false
}

// A command is a line that begins with "$ ", with its continuation lines and the output that is shown below it.
type command struct {
	line  int
	text  string
	shown []string
}

// commands returns the commands of a block of kind console.
func (b block) commands() []command {
	var all []command
	open := false
	for i, l := range b.lines {
		text, is := strings.CutPrefix(l, "$ ")
		switch {
		case open:
			last := &all[len(all)-1]
			last.text = strings.TrimSuffix(last.text, "\\") + " " + strings.TrimSpace(l)
		case is:
			all = append(all, command{line: b.line + i, text: text})
		case len(all) > 0 && strings.TrimSpace(l) != "" && !strings.HasPrefix(l, "# "):
			last := &all[len(all)-1]
			last.shown = append(last.shown, l)
		}
		open = (is || open) && strings.HasSuffix(l, "\\")
	}
	return all
}

var (
	notePattern   = regexp.MustCompile(`^ *<!-- test: (.*) -->$`)
	notRunPattern = regexp.MustCompile(`^not run, because (\S+ ){2,}\S+$`)
	fenceLine     = regexp.MustCompile("^( *)```(.*)$")
)

func parseNote(text string) (n note, err error) {
	if strings.HasPrefix(text, "not run") {
		if !notRunPattern.MatchString(text) {
			return n, fmt.Errorf("want a reason, <!-- test: not run, because … -->, not %q", text)
		}
		return note{notRun: strings.TrimPrefix(text, "not run, because ")}, nil
	}
	for _, word := range strings.Fields(text) {
		key, value, _ := strings.Cut(word, "=")
		if !slices.Contains([]string{"setup", "prefix", "uuid", "snapshot", "file", "compose", "alerts"}, key) {
			return n, fmt.Errorf("unknown word %q in a note for the test", word)
		}
		n.words = append(n.words, noteWord{key, value})
	}
	return n, nil
}

// parse reads a page. A command outside of a block that the test knows is an error, because nothing would run it.
func parse(name, text string) (page, error) {
	p := page{name: name, text: text}
	var pending *note
	lines := strings.Split(text, "\n")
	for i := 0; i < len(lines); i++ {
		l := lines[i]
		if m := notePattern.FindStringSubmatch(l); m != nil {
			n, err := parseNote(m[1])
			if err != nil || pending != nil {
				return p, fmt.Errorf("%s:%d: bad note, or one without a block: %w", name, i+1, err)
			}
			pending = &n
			continue
		}
		b, next, err := blockAt(lines, i)
		if err != nil {
			return p, fmt.Errorf("%s:%d: %w", name, i+1, err)
		}
		if b == nil {
			if strings.TrimSpace(l) != "" && pending != nil {
				return p, fmt.Errorf("%s:%d: the note above is before no block", name, i+1)
			}
			continue
		}
		if pending != nil {
			b.note, pending = *pending, nil
		}
		p.blocks = append(p.blocks, *b)
		i = next
	}
	return p, nil
}

// blockAt returns the block that begins at a line, or nil if none does, and its last line.
func blockAt(lines []string, i int) (*block, int, error) {
	if m := fenceLine.FindStringSubmatch(lines[i]); m != nil {
		indent, language := m[1], m[2]
		b := &block{line: i + 2, language: language}
		for end := i + 1; end < len(lines); end++ {
			if lines[end] != indent+"```" {
				b.lines = append(b.lines, strings.TrimPrefix(lines[end], indent))
				continue
			}
			if language != "console" && strings.Contains("\n"+strings.Join(b.lines, "\n"), "\n$ ") {
				return nil, 0, fmt.Errorf("commands in a block of %q: want ```console", language)
			}
			return b, end, nil
		}
		return nil, 0, fmt.Errorf("a fence without an end")
	}
	if !strings.HasPrefix(lines[i], "    $ ") && !strings.HasPrefix(lines[i], "    # ") {
		if strings.HasPrefix(strings.TrimLeft(lines[i], " "), "$ ") {
			return nil, 0, fmt.Errorf("a command outside of a block")
		}
		return nil, 0, nil
	}
	b := &block{line: i + 1, language: "console"}
	end := i
	for ; end < len(lines) && (lines[end] == "" || strings.HasPrefix(lines[end], "    ")); end++ {
		b.lines = append(b.lines, strings.TrimPrefix(lines[end], "    "))
	}
	return b, end - 1, nil
}

// top is the root of the repository, relative to this package.
const top = "../.."

// pages returns README.md and the pages in docs, without those that are generated from the code.
func pages(t *testing.T) []page {
	t.Helper()
	names := []string{"README.md", "CONTRIBUTING.md"}
	for _, pattern := range []string{"docs/*.md", "docs/*/*.md"} {
		found, err := filepath.Glob(filepath.Join(top, pattern))
		require.NoError(t, err)
		for _, path := range found {
			if name, _ := filepath.Rel(top, path); name != "docs/cli.md" && !strings.HasPrefix(name, "docs/reference/") {
				names = append(names, name)
			}
		}
	}
	var all []page
	for _, name := range names {
		text, err := os.ReadFile(filepath.Join(top, name))
		require.NoError(t, err)
		p, err := parse(name, string(text))
		require.NoError(t, err)
		all = append(all, p)
	}
	if len(all) < 7 {
		t.Fatalf("only %d pages: is this the repository?", len(all))
	}
	return all
}
