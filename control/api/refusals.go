package api

// AskControl is the part of an error that says how an operator can make a request that a node is not allowed to make.
const AskControl = "ask with an operator's certificate, or as root of a control host with " + OnControl

// AskAsAdmin is AskControl for a request that requires the role admin.
const AskAsAdmin = "ask with an admin's certificate, or as root of a control host with " + OnControl

// OnControl is the setting with which the command line asks the control replica of its host.
const OnControl = "DROVER_API=unix:///run/drover/control.sock"
