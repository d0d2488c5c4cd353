package main

import (
	"bytes"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
	"github.com/spf13/pflag"
)

const cliDoc = "../../docs/cli.md"

// TestDocsOfTheCommandLine fails if docs/cli.md differs from the help of the commands.
func TestDocsOfTheCommandLine(t *testing.T) {
	want := document(newRootCmd(newConsole(theWorld()).App))
	if *update {
		if err := os.WriteFile(cliDoc, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(cliDoc)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(got), want); d != "" {
		t.Errorf("docs/cli.md is stale (go test ./cmd/drover -update writes it anew):\n%s", d)
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
	noOutput := map[string]bool{"drover serve": true, "drover control": true, "drover agent": true, "drover guard": true, "drover completion": true, "drover store backup": true, "drover store export": true, "drover store import": true, "drover help": true}
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
