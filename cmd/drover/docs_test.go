package main

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
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

func document(root *cobra.Command) string {
	var b strings.Builder
	b.WriteString("# The command line\n\nThis page is made from the commands' own help.\n\n" + root.Long + "\n\nFlags of every command:\n\n```\n" +
		root.PersistentFlags().FlagUsages() + "```\n\n")
	contents(&b, root, "")
	for _, cmd := range leaves(root) {
		b.WriteString("\n## " + cmd.CommandPath() + "\n\n")
		text := cmd.Long
		if text == "" {
			text = cmd.Short + "."
		}
		b.WriteString(text + "\n\n```\n" + cmd.UseLine() + "\n```\n")
		if f := cmd.LocalNonPersistentFlags(); f.HasAvailableFlags() {
			b.WriteString("\n```\n" + f.FlagUsages() + "```\n")
		}
		if cmd.Example != "" {
			b.WriteString("\n```\n" + strings.TrimRight(cmd.Example, "\n") + "\n```\n")
		}
	}
	return b.String()
}

func contents(b *strings.Builder, cmd *cobra.Command, indent string) {
	for _, c := range cmd.Commands() {
		if !c.IsAvailableCommand() {
			continue
		}
		if acts(c) {
			b.WriteString(indent + "- [" + c.CommandPath() + "](#" + strings.ReplaceAll(c.CommandPath(), " ", "-") + "): " + c.Short + "\n")
		} else {
			b.WriteString("- " + c.Name() + ": " + c.Short + "\n")
		}
		if c.HasSubCommands() {
			contents(b, c, indent+"  ")
		}
	}
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
