package docs

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

// manual is what docs/cli.md, which another test keeps up to date, says about the commands.
type manual struct {
	flags map[string][]string // of each command, by its path without drover
	all   []string            // every flag of any command
}

func readManual(t *testing.T) manual {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(top, "docs/cli.md"))
	require.NoError(t, err)
	m := manual{flags: map[string][]string{}}
	sections := regexp.MustCompile(`(?m)^## drover (.*)$`).Split(string(text), -1)
	names := regexp.MustCompile(`(?m)^## drover (.*)$`).FindAllStringSubmatch(string(text), -1)
	flag := regexp.MustCompile(`(?m)^ +(?:(-\w), )?(--[a-z-]+)`)
	common := []string{"--api", "--cert", "--key", "--ca", "--help", "-h"}
	for i, name := range names {
		own := slices.Clone(common)
		for _, f := range flag.FindAllStringSubmatch(sections[i+1], -1) {
			own = append(own, f[2], f[1])
		}
		if len(own) == len(common) && strings.Contains(sections[i+1], "* [drover "+name[1]+" ") {
			continue // it only has subcommands
		}
		m.flags[name[1]] = own
		m.all = append(m.all, own...)
	}
	if len(m.flags) < 30 {
		t.Fatalf("docs/cli.md lists %d commands only", len(m.flags))
	}
	return m
}

// check returns what is wrong with a command line, or "" if it is valid.
func (m manual) check(words []string) error {
	if strings.HasPrefix(words[0], "--api") {
		words = words[2:]
	}
	name := words[0]
	for _, word := range words[1:min(2, len(words))] {
		if m.flags[name] == nil || m.flags[name+" "+word] != nil { // drover guard runs, and has commands
			name += " " + word
		}
	}
	own := m.flags[name]
	if own == nil {
		return fmt.Errorf("there is no command %q", name)
	}
	for i, w := range words {
		flag, _, _ := strings.Cut(w, "=")
		if strings.HasPrefix(w, "-") && w != "-" && !slices.Contains(own, flag) {
			return fmt.Errorf("%s has no flag %s", name, flag)
		}
		if (w == "-o" || w == "--opt") && i+1 < len(words) && slices.Contains(own, "--opt") {
			if err := checkOption(words[i+1]); err != nil {
				return err
			}
		}
	}
	return nil
}

// checkOption returns what is wrong with KEY=VALUE.
func checkOption(word string) error {
	key, value, _ := strings.Cut(word, "=")
	if key == "help" || key == "json" || key == "table" {
		return nil
	}
	_, err := dataset.ParseOptions(map[string]string{key: value})
	return err
}

var (
	spanPattern   = regexp.MustCompile("`([^`\n]+)`")
	droverPattern = regexp.MustCompile(`(?:^|[|(] *|&& )drover ([^|>&)]+)`)
	createPattern = regexp.MustCompile(`docker volume create -d drover (.*)`)
	makePattern   = regexp.MustCompile(`^make ([a-z -]+)`)
)

// typed returns all command lines and inline code of a page, except those of other forms: a single flag, or a name.
func (p page) typed() []string {
	var all []string
	for _, b := range p.blocks {
		if b.language != "console" {
			continue
		}
		for _, c := range b.commands() {
			all = append(all, c.text)
		}
	}
	for _, m := range spanPattern.FindAllStringSubmatch(fencePattern.ReplaceAllString(p.text, ""), -1) {
		all = append(all, m[1])
	}
	return all
}

// TestNames looks up each command, flag, option and make target that a page
// mentions, also where it shows no command to run.
func TestNames(t *testing.T) {
	m := readManual(t)
	targets := makeTargets(t)
	for _, p := range pages(t) {
		for _, line := range p.typed() {
			for _, d := range droverPattern.FindAllStringSubmatch(line, -1) {
				if words := strings.Fields(d[1]); len(words) > 0 {
					assert.NoErrorf(t, m.check(words), "%s: `%s`", p.name, line)
				}
			}
			if f := strings.Fields(line); strings.HasPrefix(line, "--") && !m.knows(f[0]) {
				t.Errorf("%s: `%s`: no command has that flag", p.name, line)
			}
			if c := createPattern.FindStringSubmatch(line); c != nil {
				for _, o := range regexp.MustCompile(`-o (\S+)`).FindAllStringSubmatch(c[1], -1) {
					assert.NoErrorf(t, checkOption(o[1]), "%s: `%s`", p.name, line)
				}
			}
			if mk := makePattern.FindStringSubmatch(line); mk != nil {
				for _, target := range strings.Fields(mk[1]) {
					if !slices.Contains(targets, target) {
						t.Errorf("%s: `%s`: there is no target %s", p.name, line, target)
					}
				}
			}
		}
	}
}

// knows reports whether a command of Drover, or one of Docker's that pages mention, has a flag.
func (m manual) knows(flag string) bool {
	dockers := []string{"--volume-driver", "--mount"}
	return slices.Contains(m.all, flag) || slices.Contains(dockers, flag)
}

func makeTargets(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(top, "Makefile"))
	require.NoError(t, err)
	var all []string
	for _, m := range regexp.MustCompile(`(?m)^([a-z-]+):`).FindAllStringSubmatch(string(text), -1) {
		all = append(all, m[1])
	}
	return all
}

// README.md lists the options; docs/api.md lists the codes of errors.
func TestListsAreWhole(t *testing.T) {
	var readme, api string
	for _, p := range pages(t) {
		switch p.name {
		case "README.md":
			readme = p.text
		case "docs/api.md":
			api = p.text
		}
	}
	list := regexp.MustCompile("(?s)Options, with.*?: `([^`]+)`").FindStringSubmatch(readme)
	if list == nil {
		t.Fatal("README.md lists no options")
	}
	var want []string
	for _, o := range dataset.OptionHelp() {
		want = append(want, o.Name)
	}
	got := strings.Fields(list[1])
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("README.md has the options %v, there are %v", got, want)
	}
	for _, k := range dataset.Kinds() {
		if !regexp.MustCompile("(?m)^\\| .*`" + k.Code + "`.* \\| " + fmt.Sprint(k.HTTP) + " ").MatchString(api) {
			t.Errorf("docs/api.md has no line for code %s with status %d", k.Code, k.HTTP)
		}
	}
}
