package main

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
	"github.com/spf13/pflag"

	"github.com/droverhq/drover/cmd/drover/internal/nodes"
	"github.com/droverhq/drover/cmd/drover/internal/settings"
)

// TestGeneratedPages fails if a page differs from what it is generated from: the help of the commands, or the
// schema of a configuration file.
func TestGeneratedPages(t *testing.T) {
	pages := map[string]string{
		"cli.md": document(newRootCmd(newConsole(theWorld()).App)),
	}
	for _, p := range settings.ReferencePages() {
		text, err := p.Markdown()
		if err != nil {
			t.Fatal(err)
		}
		pages["reference/"+strings.TrimSuffix(p.File, ".yaml")+".md"] = text
	}
	for page, want := range pages {
		file := filepath.Join("../../docs", page)
		if *update {
			if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		got, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(string(got), want); d != "" {
			t.Errorf("%s is stale (go test ./cmd/drover -run TestGeneratedPages -update writes it anew):\n%s", file, d)
		}
	}
}

// document returns docs/cli.md: the pages of cobra/doc for all commands. Flags that all commands have are only on the
// page of drover.
func document(root *cobra.Command) string {
	var b bytes.Buffer
	b.WriteString("# The command line\n\nThis page is generated from the help of the commands.\n\n")
	link := func(page string) string {
		return "#" + strings.ReplaceAll(strings.TrimSuffix(page, ".md"), "_", "-")
	}
	var walk func(*cobra.Command)
	walk = func(cmd *cobra.Command) {
		cmd.InitDefaultHelpFlag()
		cmd.Flags().Lookup("help").Hidden = true
		cobra.CheckErr(doc.GenMarkdownCustom(cmd, &b, link))
		root.PersistentFlags().VisitAll(func(f *pflag.Flag) { f.Hidden = true })
		for _, c := range cmd.Commands() {
			if c.IsAvailableCommand() {
				walk(c)
			}
		}
	}
	walk(root)
	return b.String()
}

// acts reports whether a command does something itself, and is not only a group of subcommands.
func acts(c *cobra.Command) bool {
	return !c.HasSubCommands() || c.LocalNonPersistentFlags().HasAvailableFlags()
}

// leaves returns the commands that do something, without hidden ones.
func leaves(cmd *cobra.Command) []*cobra.Command {
	var out []*cobra.Command
	for _, c := range cmd.Commands() {
		if !c.IsAvailableCommand() {
			continue
		}
		if acts(c) {
			out = append(out, c)
		}
		out = append(out, leaves(c)...)
	}
	return out
}

// TestCommandsAreOfOneMould checks the rules that apply to all commands.
func TestCommandsAreOfOneMould(t *testing.T) {
	root := newRootCmd(newConsole(theWorld()).App)
	noOutput := map[string]bool{"drover serve": true, "drover control": true, "drover agent": true, "drover guard": true, "drover store backup": true, "drover store import": true, "drover help": true}
	inUse := regexp.MustCompile(`^[a-z-]+( \[?[A-Z=]+\]?)*( \[[A-Z=]+\.\.\.\])?$`)
	for _, cmd := range leaves(root) {
		path := cmd.CommandPath()
		if cmd.Args == nil {
			t.Errorf("%s takes any arguments", path)
		}
		if cmd.Short == "" || strings.HasSuffix(cmd.Short, ".") {
			t.Errorf("%s: short help %q", path, cmd.Short)
		}
		if !inUse.MatchString(cmd.Use) {
			t.Errorf("%s: use line %q", path, cmd.Use)
		}
		if o := cmd.Flags().ShorthandLookup("o"); (o == nil) != noOutput[path] || !noOutput[path] && cmd.Flags().Lookup("output") == nil {
			t.Errorf("%s: -o, --output: %v", path, o != nil)
		}
		for line := range strings.Lines(cmd.Long) {
			if len([]rune(line)) > 81 {
				t.Errorf("%s: a line of its help is too long: %q", path, line)
			}
		}
		cmd.Flags().VisitAll(func(f *pflag.Flag) {
			if f.Name != "help" && (f.Usage == "" || strings.HasSuffix(f.Usage, ".")) {
				t.Errorf("%s --%s: %q", path, f.Name, f.Usage)
			}
		})
	}
}

// TestReferenceIsComplete checks that each key has everything that the page shows, and that its example is YAML.
func TestReferenceIsComplete(t *testing.T) {
	want := map[string][]string{
		"profiles.yaml": {"profiles.NAME.snapshots.keep.daily", "profiles.NAME.fence.exec", "profiles.NAME.encryption.key_file", "profiles.NAME.filesystem.mount"},
		"drover.yaml":   {"pools[].trim", "store.consul.token_file", "listen.advertise", "transfers.rate"},
	}
	for _, p := range settings.ReferencePages() {
		keys, err := p.Keys()
		if err != nil {
			t.Fatal(err)
		}
		var paths []string
		for _, k := range keys {
			paths = append(paths, k.Path)
			if k.Type == "" || k.Description == "" || k.Example == "" || k.Live == "" || !strings.HasSuffix(k.Description, ".") {
				t.Errorf("%s: give key %s a description, examples and x-live in the schema: %+v", p.File, k.Path, k)
			}
			var v any
			if err := yaml.Unmarshal([]byte(k.Path[strings.LastIndex(k.Path, ".")+1:]+": "+k.Example), &v); err != nil {
				t.Errorf("%s: example of %s: %v", p.File, k.Path, err)
			}
		}
		for _, path := range want[p.File] {
			if !slices.Contains(paths, path) {
				t.Errorf("%s: no key %s among %v", p.File, path, paths)
			}
		}
	}
}

// TestDocsShowTheQuestionOfRecover: docs/operations.md shows the word that drover store recover asks for.
func TestDocsShowTheQuestionOfRecover(t *testing.T) {
	page, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	if want := "\nType " + nodes.RecoverWord + " to continue: " + nodes.RecoverWord + "\n"; !strings.Contains(string(page), want) {
		t.Errorf("docs/operations.md lacks %q", want)
	}
}
