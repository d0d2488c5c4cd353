package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// Group makes cmd the parent of other commands. A call of cmd without a subcommand prints its help. A call with an
// unknown subcommand is a usage error.
func Group(cmd *cobra.Command, children ...*cobra.Command) *cobra.Command {
	cmd.AddCommand(children...)
	cmd.Args = cobra.ArbitraryArgs
	cmd.ValidArgsFunction = cobra.NoFileCompletions
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			return UnknownCommand(cmd, args[0])
		}
		return cmd.Help()
	}
	return cmd
}

// clusterOnly is the annotation of a command that only a cluster needs.
const clusterOnly = "cluster-only"

// ClusterOnly marks a command that only a cluster needs. The help does not show it on a single host.
func ClusterOnly(cmd *cobra.Command) *cobra.Command {
	cmd.Annotations = map[string]string{clusterOnly: ""}
	return cmd
}

// IsClusterOnly reports whether ClusterOnly marked a command.
func IsClusterOnly(cmd *cobra.Command) bool {
	_, is := cmd.Annotations[clusterOnly]
	return is
}

// UnknownCommand is the usage error for a word that names no subcommand of cmd. It suggests the commands that cobra
// finds for the word.
func UnknownCommand(cmd *cobra.Command, word string) error {
	var names []string
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			names = append(names, c.Name())
		}
	}
	cmd.SuggestionsMinimumDistance = 1 // with 2, rm would be suggested for ls
	hint := ""
	if near := cmd.SuggestionsFor(word); word != "" && len(near) > 0 {
		hint = ", did you mean " + strings.Join(near, " or ") + "?"
	}
	return unknownWord(cmd, "command", CommandName(cmd), word, names, hint)
}

// UnknownWord is the usage error for a word that is not in have, the list of the known words. what names the kind of
// word, such as profile. where is the command or flag that expects the word.
func UnknownWord(cmd *cobra.Command, what, where, word string, have []string) error {
	hint := ""
	if n := dataset.Nearest(word, have); n != "" {
		hint = ", did you mean " + n + "?"
	}
	return unknownWord(cmd, what, where, word, have, hint)
}

func unknownWord(cmd *cobra.Command, what, where, word string, have []string, hint string) error {
	return UsageError(cmd, "unknown %s %q for %s%s (available: %s)", what, dataset.Clip(word), where, hint,
		dataset.FormatChoices(have))
}

// CommandName returns the name of a command without the program's name.
func CommandName(cmd *cobra.Command) string {
	if !cmd.HasParent() {
		return cmd.Name()
	}
	_, path, _ := strings.Cut(cmd.CommandPath(), " ")
	return path
}

// UsageError is an error about how a command was called: exit code 2 and a hint.
func UsageError(cmd *cobra.Command, format string, args ...any) error {
	return dataset.Errorf(dataset.ErrInvalid, "%w; see %s --help", fmt.Errorf(format, args...), cmd.CommandPath())
}

// Args checks the number of arguments. It accepts minimum or more of them, up to the number that the use line of the
// command names, or any number if the use line ends in "...]". The error names the missing or unexpected argument.
func Args(minimum int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		_, names, _ := strings.Cut(cmd.Use, " ")
		maximum := len(strings.Fields(names))
		if strings.HasSuffix(names, "...]") {
			maximum = max(maximum, len(args))
		}
		switch {
		case len(args) >= minimum && len(args) <= maximum:
			return nil
		case len(args) > maximum:
			return UsageError(cmd, "unexpected argument: %s", dataset.Clip(args[maximum]))
		}
		return UsageError(cmd, "missing argument: %s", strings.Fields(names)[len(args)])
	}
}

// PrintError writes an error as one line.
func PrintError(w io.Writer, err error) {
	// If standard error is closed too, the error cannot be reported.
	_, _ = fmt.Fprintln(w, "drover: "+Clean(err.Error()))
}

// PrintMistakes prints each mistake in a file on a line, and returns an error with their number. If there is only one
// mistake, it prints nothing and returns the mistake.
func PrintMistakes(a *App, file string, all []error) error {
	if len(all) == 1 {
		return all[0]
	}
	for _, m := range all {
		PrintError(a.ErrOut, m)
	}
	return dataset.Errorf(dataset.KindOf(all[0]), "%s has %d errors", file, len(all))
}

// FlagError explains a wrong flag and suggests a correct one.
func FlagError(cmd *cobra.Command, err error) error {
	var unknown *pflag.NotExistError
	var value *pflag.InvalidValueError
	switch before := cmd.Flags().Args(); {
	case cmd.HasSubCommands() && len(before) > 0:
		return UnknownCommand(cmd, before[0])
	case errors.As(err, &unknown) && unknown.GetSpecifiedShortnames() != "":
		return UsageError(cmd, "unknown flag: -%s", unknown.GetSpecifiedName()[:1])
	case errors.As(err, &unknown):
		name := unknown.GetSpecifiedName()
		return UsageError(cmd, "unknown flag: --%s%s", name, flagHint(cmd, name))
	case errors.As(err, &value):
		return valueError(cmd, value)
	}
	return UsageError(cmd, "%w", err)
}

// destructive lists the flags that override a protection. A message does not suggest them for another flag, because a
// user could follow the suggestion without knowing what the flag does.
var destructive = []string{"force", "forget", "fenced", "yes", "all"}

// flagHint returns what to type instead of an unknown flag: -o for the name of an option of a volume, or the most
// similar flag. It returns "" if there is neither.
func flagHint(cmd *cobra.Command, name string) string {
	if cmd.Flags().Lookup("opt") != nil {
		for _, h := range dataset.OptionHelp() {
			if key, _, _ := strings.Cut(h.Name, "."); key == name {
				return " (use -o " + h.Name + "=" + h.Value + ")"
			}
		}
	}
	var flags, longer []string
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		flags = append(flags, f.Name)
		if len(name) > 1 && strings.HasPrefix(f.Name, name) {
			longer = append(longer, f.Name)
		}
	})
	flag := dataset.Nearest(name, flags)
	if len(longer) == 1 {
		flag = longer[0]
	}
	if flag == "" || slices.Contains(destructive, flag) {
		return ""
	}
	return " (did you mean --" + flag + "?)"
}

// valueError returns the error for a wrong value. It names the values that the flag accepts.
func valueError(cmd *cobra.Command, err *pflag.InvalidValueError) error {
	var number *strconv.NumError
	if !errors.As(err, &number) {
		return UsageError(cmd, "%w", err)
	}
	want := "a whole number, 0 or more"
	switch err.GetFlag().Value.Type() {
	case "bool":
		want = "true or false"
	case "float64":
		want = "a number, such as 1.5, or 0 for no limit"
	}
	return UsageError(cmd, "--%s %q: expected %s", err.GetFlag().Name, err.GetValue(), want)
}

// valueWords has the completions of flags. The key is the name of the flag's value in the help, such as POOL.
var valueWords = map[string]candidates{
	"NODE": NodeWords, "POOL": PoolWords, "PROFILE": ProfileWords, "REPOSITORY": RepositoryWords, "VOLUME": VolumeWords,
	"LEVEL":  fixedWords("debug", "info", "warning", "error"),
	"KIND":   fixedWords("loop", "btrfs", "zfs", "lvm", "dir", "nfs"),
	"TARGET": fixedWords("swarm", "consul"),
}

// fileValues are the names of values that are completed by the shell, as files.
var fileValues = []string{"FILE", "DIR", "DEVICE", "PATH", "@FILE"}

func fixedWords(words ...string) candidates {
	return func(context.Context, Remote, []string, string) ([]string, error) { return words, nil }
}

// CompleteFlags completes the values of the flags of cmd and of all commands below it, unless a command has registered
// its own function. A flag gets no completions if its value is not a file and is not in valueWords.
func CompleteFlags(a *App, cmd *cobra.Command) {
	cmd.LocalFlags().VisitAll(func(f *pflag.Flag) {
		value, _ := pflag.UnquoteUsage(f)
		_, registered := cmd.GetFlagCompletionFunc(f.Name)
		if registered || f.NoOptDefVal != "" || slices.Contains(fileValues, value) {
			return
		}
		words := valueWords[value]
		if words == nil {
			words = NoWords
		}
		cobra.CheckErr(cmd.RegisterFlagCompletionFunc(f.Name,
			func(cmd *cobra.Command, _ []string, begun string) ([]string, cobra.ShellCompDirective) {
				return Complete(a, words)(cmd, nil, begun)
			}))
	})
	for _, c := range cmd.Commands() {
		CompleteFlags(a, c)
	}
}

// completeOption completes the key of an option KEY=VALUE of a volume.
func completeOption(_ *cobra.Command, _ []string, begun string) (words []string, _ cobra.ShellCompDirective) {
	for _, h := range dataset.OptionHelp() {
		word, label := strings.CutSuffix(h.Name, "KEY")
		if !label {
			word += "="
		}
		if word != begun && strings.HasPrefix(word, begun) {
			words = append(words, word+"\t"+h.Help)
		}
	}
	return words, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
}

// CompleteWithin bounds how long a completion waits for the server.
const CompleteWithin = 2 * time.Second

// candidates lists the possible values of an argument, each with a description after a tab.
type candidates func(ctx context.Context, c Remote, given []string, begun string) ([]string, error)

// Complete completes the arguments of a command, each from one list. Further arguments have no
// completions, and no argument has any while the server does not answer.
func Complete(a *App, lists ...candidates) cobra.CompletionFunc {
	return func(cmd *cobra.Command, given []string, begun string) ([]string, cobra.ShellCompDirective) {
		const none = cobra.ShellCompDirectiveNoFileComp
		if len(given) >= len(lists) {
			return nil, none
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), CompleteWithin)
		defer cancel()
		c, err := a.Connect()
		if err != nil {
			return nil, none
		}
		all, err := lists[len(given)](ctx, c, given, begun)
		if err != nil {
			return nil, none
		}
		var fit []string
		for _, w := range all {
			if strings.HasPrefix(w, begun) {
				word, description, _ := strings.Cut(w, "\t")
				fit = append(fit, Clean(word)+"\t"+Clean(description))
			}
		}
		return fit, none
	}
}

// CompleteEach completes every argument from one list.
func CompleteEach(a *App, list candidates) cobra.CompletionFunc {
	first := Complete(a, list)
	return func(cmd *cobra.Command, _ []string, begun string) ([]string, cobra.ShellCompDirective) {
		return first(cmd, nil, begun)
	}
}

// NoWords lists no candidates. It is used for an argument that is a new name or free text.
func NoWords(context.Context, Remote, []string, string) ([]string, error) { return nil, nil }

// VolumeWords lists the names of volumes.
func VolumeWords(ctx context.Context, c Remote, _ []string, _ string) ([]string, error) {
	list, err := FetchAll(ctx, c.Volumes)
	var out []string
	for _, v := range list {
		out = append(out, v.Volume+"\tprofile "+v.Profile.Name)
	}
	return out, err
}

// NewVolumeWords completes a new volume's name after its "@".
func NewVolumeWords(ctx context.Context, c Remote, _ []string, begun string) ([]string, error) {
	name, _, at := strings.Cut(begun, "@")
	if !at {
		return nil, nil
	}
	out, err := ProfileWords(ctx, c, nil, "")
	for i := range out {
		out[i] = name + "@" + out[i]
	}
	return out, err
}

// ProfileWords lists the names of profiles.
func ProfileWords(ctx context.Context, c Remote, _ []string, _ string) ([]string, error) {
	list, err := c.Profiles(ctx)
	var out []string
	for _, p := range list {
		out = append(out, p.Name+"\t"+p.Description)
	}
	return out, err
}

// SnapshotWords completes snapshots by UUID. If the previous argument is a volume, it also completes them by name.
func SnapshotWords(ctx context.Context, c Remote, given []string, _ string) ([]string, error) {
	ref := ""
	if len(given) > 0 {
		ref = given[len(given)-1]
	}
	list, err := FetchAll(ctx, SnapshotsOf(c, ref))
	var out []string
	for _, s := range list {
		description := strings.TrimSpace(s.Volume + " " + s.Name + " " + s.Created.Format(time.DateTime))
		if ref != "" && s.Name != "" {
			out = append(out, s.Name+"\t"+description)
		}
		out = append(out, s.ID.String()+"\t"+description)
	}
	return out, err
}

// TrashWords lists the UUIDs of datasets in the trash.
func TrashWords(ctx context.Context, c Remote, _ []string, _ string) ([]string, error) {
	list, err := FetchAll(ctx, c.Trash)
	var out []string
	for _, v := range list {
		out = append(out, v.ID.String()+"\twas "+v.Volume)
	}
	return out, err
}

// PoolWords lists the names of pools.
func PoolWords(ctx context.Context, c Remote, _ []string, _ string) ([]string, error) {
	list, err := c.Pools(ctx)
	var out []string
	for _, p := range list {
		out = append(out, p.Name+"\t"+p.Backend+" at "+p.Path)
	}
	return out, err
}

// RepositoryWords lists the names of the repositories for backups.
func RepositoryWords(ctx context.Context, c Remote, _ []string, _ string) ([]string, error) {
	list, err := c.Repositories(ctx)
	var out []string
	for _, r := range list {
		out = append(out, r.Name+"\t"+r.URL)
	}
	return out, err
}

// NodeWords lists the names of nodes.
func NodeWords(ctx context.Context, c Remote, _ []string, _ string) ([]string, error) {
	list, err := c.NodeList(ctx, "")
	var out []string
	for _, n := range list {
		out = append(out, n.Name)
	}
	return out, err
}

// OperationWords lists the UUIDs of operations.
func OperationWords(ctx context.Context, c Remote, _ []string, _ string) ([]string, error) {
	list, err := FetchAll(ctx, c.Operations)
	var out []string
	for _, op := range list {
		out = append(out, op.ID.String()+"\t"+op.Action()+" "+op.Volume)
	}
	return out, err
}

// SnapshotsOf fetches pages of the snapshots of one volume or, with an empty
// ref, of all.
func SnapshotsOf(c Remote, ref string) func(context.Context, api.Page) (api.List[dataset.Snapshot], error) {
	return func(ctx context.Context, p api.Page) (api.List[dataset.Snapshot], error) {
		return c.Snapshots(ctx, ref, p)
	}
}

// VolumeLabels returns a function that returns the labels of the volume or of the dataset in the trash with a UUID.
func VolumeLabels(ctx context.Context, c Remote) (func(id uuid.UUID) map[string]string, error) {
	labels := map[uuid.UUID]map[string]string{}
	for _, page := range []func(context.Context, api.Page) (api.List[api.Volume], error){c.Volumes, c.Trash} {
		list, err := FetchAll(ctx, page)
		if err != nil {
			return nil, err
		}
		for _, v := range list {
			labels[v.ID] = v.Labels
		}
	}
	return func(id uuid.UUID) map[string]string { return labels[id] }, nil
}
