package main

import (
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/dataset"
)

func newCompletionCmd(a *cli.App) *cobra.Command {
	shells := []string{"bash", "fish", "zsh"}
	return &cobra.Command{
		Use:    "completion SHELL",
		Short:  "Print a completion script for bash, fish or zsh",
		Hidden: true, // make install writes the scripts
		Long: `Print a completion script for bash, fish or zsh. The scripts ask drover for the
words, so they also complete the names of volumes, nodes and pools. make install
installs them. The script for bash needs the package bash-completion.`,
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
				return root.GenBashCompletionV2(a.Out, true)
			case "fish":
				return root.GenFishCompletion(a.Out, true)
			case "zsh":
				return root.GenZshCompletion(a.Out)
			}
			return cli.UnknownWord(cmd, "shell", "completion", args[0], shells)
		},
	}
}
