"""Federated survival analysis: a hub asks, sites answer with sums that only their total gives away.

A hub writes a signed request; each site answers with the score and the information of a Cox model stratified
by site, hidden under masks that cancel in the total of all sites; the hub adds the answers, takes a Newton
step and asks again. Hub and sites exchange nothing but files. docs/federation.md says what each step reveals.

    settings      what a site's rwe.yaml says about federation
    documents     requests and answers: strict, signed, readable JSON
    plan          which model is fitted, derived by hub and site alike from their own study file
    sums          the numbers of one site at one beta
    life_tables   the rounded counts that go with them
    fixed_point   numbers as integers modulo 2^128
    masks         pairwise masks that cancel in the total
    newton        the rule by which beta follows from the totals, worked out at hub and sites alike
    ledger        what a site approved and answered before
    guards        every reason for which a site does not answer
    site          a site's part: answer
    hub           the hub's part: init and combine
    result        the estimate from the last totals
    evidence      what of it an analysis and its report may show
    drop          files through a web server instead of by hand
"""
