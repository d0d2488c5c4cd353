package main

import (
	"bytes"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/dataset"
)

func newCompletionCmd(a *cli.App) *cobra.Command {
	shells := []string{"bash", "fish", "zsh"}
	return &cobra.Command{
		Use:   "completion SHELL",
		Short: "Print a completion script for bash, fish or zsh",
		Long: `Print a completion script for bash, fish or zsh. The scripts ask drover for the
words, so they also complete the names of volumes, nodes and pools. make install
installs them. The script for bash also works without the package
bash-completion, but without that package bash does not load installed scripts:
source the script in ~/.bashrc instead.`,
		Example: `  source <(drover completion bash)
  drover completion bash > /etc/bash_completion.d/drover
  drover completion zsh > "${fpath[1]}/_drover"
  drover completion fish > ~/.config/fish/completions/drover.fish`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cli.UsageError(cmd, "missing argument: SHELL (available: %s)", dataset.FormatChoices(shells))
			}
			return cli.Args(1)(cmd, args)
		},
		ValidArgsFunction: cobra.FixedCompletions(shells, cobra.ShellCompDirectiveNoFileComp),
		RunE: func(cmd *cobra.Command, args []string) error {
			root := cmd.Root()
			switch args[0] {
			case "bash":
				return writeBashCompletion(a.Out, root)
			case "fish":
				return root.GenFishCompletion(a.Out, true)
			case "zsh":
				return root.GenZshCompletion(a.Out)
			}
			return cli.UnknownWord(cmd, "shell", "completion", args[0], shells)
		},
	}
}

// bashWords is the line of cobra's script that takes the words of the command line from the package bash-completion.
const bashWords = `    _get_comp_words_by_ref "$@" cur prev words cword
`

// plainBashWords replaces bashWords. If the package is missing, it splits the line at blanks, as the package does for
// the arguments "-n =:". The words keep their quotes and backslashes, because cobra's script passes them to eval. In a
// line with a redirection or a command substitution, eval would empty the file after > or run the command. For such a
// line, the script does not ask drover, and bash completes names of files.
const plainBashWords = `    if declare -F _get_comp_words_by_ref >/dev/null 2>&1; then
        _get_comp_words_by_ref "$@" cur prev words cword
        return
    fi
    local line=${COMP_LINE:0:COMP_POINT}
    case ${line} in
        *[\<\>\&\;\|\(\)$'\x60']*) return 1 ;;
    esac
    IFS=$' \t\n' read -r -d '' -a words <<<"${line}"
    if [[ ${line} == *[[:space:]] ]]; then
        words+=("")
    fi
    cword=$((${#words[@]} - 1))
    cur=${words[cword]}
    prev=
    if [[ ${cword} -gt 0 ]]; then
        prev=${words[cword-1]}
    fi
`

// writeBashCompletion writes cobra's completion script for bash, so that it works without the package bash-completion.
func writeBashCompletion(w io.Writer, root *cobra.Command) error {
	var script bytes.Buffer
	if err := root.GenBashCompletionV2(&script, true); err != nil {
		return err
	}
	if !bytes.Contains(script.Bytes(), []byte(bashWords)) {
		return fmt.Errorf("completion for bash: the script of cobra has changed: adapt the replaced line")
	}
	_, err := w.Write(bytes.Replace(script.Bytes(), []byte(bashWords), []byte(plainBashWords), 1))
	return err
}
