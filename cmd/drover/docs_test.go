package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/google/uuid"
	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
	"github.com/spf13/pflag"

	"github.com/droverhq/drover/cmd/drover/internal/nodes"
	"github.com/droverhq/drover/cmd/drover/internal/settings"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/golden"
	"github.com/droverhq/drover/test/require"
)

// TestGeneratedPages fails if a page differs from what it is generated from: the help of the commands, or the
// schema of a configuration file.
func TestGeneratedPages(t *testing.T) {
	pages := map[string]string{
		"cli.md": document(newRootCmd(newConsole(theWorld()).App)),
	}
	for _, p := range settings.ReferencePages() {
		text, err := p.Markdown()
		require.NoError(t, err)
		pages["reference/"+strings.TrimSuffix(p.File, ".yaml")+".md"] = text
	}
	for page, want := range pages {
		golden.Check(t, filepath.Join("../../docs", page), want)
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
		var page strings.Builder
		cobra.CheckErr(doc.GenMarkdownCustom(cmd, &page, link))
		text := page.String()
		if !cmd.HasSubCommands() { // it only has a link to the group above it
			text, _, _ = strings.Cut(text, "### SEE ALSO")
		}
		b.WriteString(text)
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
		require.NoError(t, err)
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
	require.NoError(t, err)
	if want := "\nType " + nodes.RecoverWord + " to continue: " + nodes.RecoverWord + "\n"; !strings.Contains(string(page), want) {
		t.Errorf("docs/operations.md lacks %q", want)
	}
}

// TestAliasesOfEveryNoun walks the command tree: each noun that can list, show or delete things has the usual other
// names, and no word for a suggestion is the name of another command.
func TestAliasesOfEveryNoun(t *testing.T) {
	words := map[string][]string{
		"ls": {"list"}, "inspect": {"show"}, "show": {"inspect"}, "rm": {"remove", "delete"}, "purge": {"rm", "remove", "delete"}, "discard": {"rm", "remove", "delete"},
	}
	aliases := 0
	var walk func(noun *cobra.Command)
	walk = func(noun *cobra.Command) {
		for _, c := range noun.Commands() {
			walk(c)
			for _, alias := range words[c.Name()] {
				aliases++
				if found, rest, err := noun.Find([]string{alias}); err != nil || len(rest) > 0 || found != c {
					t.Errorf("%s %s is %v", noun.CommandPath(), alias, found.CommandPath())
				}
			}
			for _, word := range c.SuggestFor {
				if found, _, _ := noun.Find([]string{word}); found != noun {
					t.Errorf("%s is suggested for %s, which is %s", c.CommandPath(), word, found.CommandPath())
				}
			}
		}
	}
	walk(newRootCmd(newConsole(theWorld()).App))
	if aliases < 25 {
		t.Errorf("only %d aliases", aliases)
	}
}

func TestCompletionScripts(t *testing.T) {
	for _, shell := range []string{"bash", "fish", "zsh"} {
		c := newConsole(theWorld())
		if code := c.run(t, "completion", shell); code != 0 || !strings.Contains(c.out.String(), "__complete") {
			t.Errorf("%s: exit %d, %d bytes", shell, code, c.out.Len())
		}
		if shell != "bash" {
			continue
		}
		cmd := exec.Command("bash", "-n")
		cmd.Stdin = strings.NewReader(c.out.String())
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("bash: %v: %s", err, out)
		}
	}
}

func TestManPages(t *testing.T) {
	dir := t.TempDir()
	c := newConsole(theWorld())
	if code := c.run(t, "man", dir); code != 0 {
		t.Fatalf("exit %d: %s", code, c.err.String())
	}
	for page, says := range map[string]string{"drover.1": "drover-volume", "drover-volume-create.1": "NAME@PROFILE", "drover-trash-purge.1": "--all", "profiles.yaml.5": "profiles.NAME.max_loss", "drover.yaml.5": "pools[].trim"} {
		b, err := os.ReadFile(filepath.Join(dir, page))
		if err != nil || !strings.Contains(strings.ReplaceAll(string(b), `\-`, "-"), says) {
			t.Errorf("%s: %v", page, err)
		}
		if strings.Contains(string(b), "Auto generated") {
			t.Errorf("%s says when it was made", page)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "drover-man.1")); err == nil {
		t.Error("a page for a hidden command")
	}
	file := filepath.Join(dir, "drover.1")
	for _, bad := range []string{file, filepath.Join(dir, "none")} {
		c := newConsole(theWorld())
		if code := c.run(t, "man", bad); code == 0 {
			t.Errorf("%s: no error", bad)
		}
	}
}

// TestEverythingHasACompletion walks the command tree: the arguments and the values of flags complete, except files.
func TestEverythingHasACompletion(t *testing.T) {
	files := []string{"FILE", "DIR", "DEVICE", "PATH", "@FILE"}
	root := newRootCmd(newConsole(theWorld()).App)
	for _, cmd := range leaves(root) {
		path := cmd.CommandPath()
		_, args, _ := strings.Cut(cmd.Use, " ")
		if first := strings.Trim(strings.Fields(args + " -")[0], "[]."); first != "-" && !slices.Contains(files, first) && cmd.ValidArgsFunction == nil && path != "drover help" {
			t.Errorf("%s: %s does not complete", path, first)
		}
		cmd.LocalFlags().VisitAll(func(f *pflag.Flag) {
			kind, _ := pflag.UnquoteUsage(f)
			if _, ok := cmd.GetFlagCompletionFunc(f.Name); !ok && f.NoOptDefVal == "" && !slices.Contains(files, kind) {
				t.Errorf("%s --%s %s does not complete: register a function, or cobra.NoFileCompletions", path, f.Name, kind)
			}
		})
	}
}

// hasPushed: the last operation has pushed volume db.
func hasPushed(c *console) {
	done := ended(dataset.OpDone, nil)
	done.op.Kind, done.op.Repository, done.op.Volume = dataset.OpPush, "offsite", "db"
	done.op.Push = &dataset.Push{Name: "prod", By: "local root"}
	done.op.Backup, done.op.BytesAdded, done.op.DatasetRecord = strings.Repeat("1f2e3d4c", 8), 3<<20, nil
	c.fake.operations = []dataset.Operation{done.op}
	c.fake.outcome = api.Outcome{Volume: &c.fake.volumes[0], Operation: &done.op}
}

// hasDiverged: two clusters have pushed to db, and volume db continues the first version.
func hasDiverged(c *console) {
	theirs := pushedVersion(4, 1, "db", time.Hour)
	theirs.Dataset, theirs.By, theirs.Node = idGone, "", ""
	c.fake.versions.Items = append(c.fake.versions.Items, theirs)
	c.fake.versions.Problem = nil
}

// isOvertaken: another cluster has continued what volume db pushed.
func isOvertaken(c *console) {
	theirs := pushedVersion(4, 2, "db", time.Hour)
	theirs.Dataset = idGone
	c.fake.versions.Items[1].Newest = false
	c.fake.versions.Items = append(c.fake.versions.Items, theirs)
}

// hasPulled: volume db was pulled.
func hasPulled(c *console) {
	done := ended(dataset.OpDone, nil)
	done.op.Kind = dataset.OpImport
	c.fake.outcome = api.Outcome{Operation: &done.op}
	ref := dataset.VersionRef{Repository: "offsite", Name: "db", Version: pushedVersion(2, 0, "db", 0).ID}
	c.fake.volumes[0].BasedOn = []dataset.VersionRef{ref}
}

// hasDamagedVersion: an entry of the repository cannot be read.
func hasDamagedVersion(c *console) {
	c.fake.versions.Problem = &dataset.Problem{Code: dataset.ErrCorrupt.Code, Message: "versions in offsite: the entry 5f1c09aa has bad tags"}
}

// pushedVersion returns version n of a name, which was pushed from volume db some time ago. The last one of a name is its
// newest, and version 1 has no data any more.
func pushedVersion(n, parent byte, name string, ago time.Duration) dataset.PushedVersion {
	id := func(n byte) (id uuid.UUID) {
		if n > 0 {
			id = uuid.UUID{0x5a, n, 6: 0x40, 8: 0x80}
		}
		return id
	}
	v := dataset.PushedVersion{
		ID: id(n), Repository: "offsite", Name: name, Parent: id(parent), Backup: strings.Repeat("1c09aa5f", 8),
		Taken: now.Add(-ago - time.Minute), Pushed: now.Add(-ago), Volume: "db", Dataset: idDB, Node: "host-a", By: "operator alice (admin)",
		Removed: n == 1, Newest: n > 1,
	}
	if v.Removed {
		v.Taken = time.Time{}
	}
	return v
}

// A mistake in a flag or file is reported before anything is created.
func TestServeChecksBeforeItMakes(t *testing.T) {
	yaml := filepath.Join(t.TempDir(), "drover.yaml")
	require.NoError(t, os.WriteFile(yaml, []byte("pools: [{name: a, backend: dir, path: /a}, {name: b, backnd: dir, path: /b}]\n"), 0o600))
	lop, btrfs := filepath.Join(t.TempDir(), "lop.yaml"), filepath.Join(t.TempDir(), "profiles.yaml")
	for file, text := range map[string]string{
		lop:   "pools: [{name: a, backend: dir, path: /a}, {name: b, backend: lop, path: /b}]\n",
		btrfs: "default: p\nprofiles: {p: {backend: btrfs, qos: {read_iops: 50}}}\n",
	} {
		require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	}
	none := filepath.Join(t.TempDir(), "none.yaml")
	for _, tc := range []struct {
		flags []string
		says  string
		exit  int
	}{
		{[]string{"--metrics-listen", "0.0.0.0:9469"}, `--metrics-listen "0.0.0.0:9469": expected a loopback address`, 2},
		{[]string{"--metrics-listen", "127.0.0.1:metrics"}, "expected a loopback address", 2},
		{[]string{"--metrics-listen", "127.0.0.1"}, "expected a loopback address", 2},
		{[]string{"--driver", "a/b"}, `--driver "a/b": expected letters`, 2},
		{[]string{"--driver", ".."}, `--driver "..": expected letters`, 2},
		{[]string{"--driver", "drover:latest"}, "expected letters", 2},
		{[]string{"--driver", ""}, "expected letters", 2},
		{[]string{"--driver", "local"}, "Docker's built-", 2},
		{[]string{"--driver", strings.Repeat("d", 100)}, "107 at most", 2},
		{[]string{"--run", "run"}, `--run "run": expected an absolute path`, 2},
		{[]string{"--log-level", "loud"}, "unknown log level", 2},
		{[]string{"--config", none}, none + ": no such file", 1},
		{[]string{"--profiles", none}, none + ": no such file", 1},
		{[]string{"--config", yaml}, `unknown key "backnd", did you mean backend?`, 2},
		{[]string{"--config", lop}, `pools[1].backend: unknown backend "lop" (available: btrfs, dir, loop, lvm, nfs, zfs); did you mean loop?`, 2},
		{[]string{"--profiles", btrfs}, "profiles.p.backend: no pool of backend btrfs can satisfy this profile: " +
			"it has no block device for each volume", 2},
	} {
		dir := t.TempDir()
		c := newConsole(theWorld())
		args := []string{"serve", "--root", dir + "/root", "--run", dir + "/run", "--plugin-dir", dir + "/plugins"}
		code := c.run(t, append(args, tc.flags...)...)
		if code != tc.exit || !strings.Contains(c.err.String(), tc.says) {
			t.Errorf("%v: exit %d, %swant %d and %s", tc.flags, code, c.err.String(), tc.exit, tc.says)
		}
		if made, err := os.ReadDir(dir); err != nil || len(made) > 0 {
			t.Errorf("%v: %v, %v were made", tc.flags, err, made)
		}
	}
}

// A guard does not start if its fence could end after another node may continue the volume. It creates nothing then.
func TestGuardStepIsBounded(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	for _, step := range []string{"2s", "1ms", "-1s", "0s"} {
		c := newConsole(&fake{})
		code := c.run(t, "guard", "--run", dir, "--root", dir, "--step", step)
		if code == 0 || !strings.Contains(c.err.String(), "--step "+step) || !strings.Contains(c.err.String(), "50ms to 1s") {
			t.Errorf("--step %s: exit %d, %s", step, code, c.err.String())
		}
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("it made something: %v", err)
	}
}
